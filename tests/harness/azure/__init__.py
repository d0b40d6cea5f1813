"""Parts of the Service Bus stand-in. They run under Debian's Python, without our packages."""
