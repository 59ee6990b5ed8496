"""What can be known of a run before it starts: its folder, its inputs, its places, its memory, its pace."""
