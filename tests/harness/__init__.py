"""What tests share: real servers, polling, entries that start ours with crash points."""
