"""What every command shares on the terminal: its start and end, its progress, what a finished one says."""
