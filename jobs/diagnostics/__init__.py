"""What the nodes have and lack, and what a submitted job takes along."""
