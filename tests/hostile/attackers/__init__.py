"""One module for each kind of attacker."""
