"""The command `effdl`: what is asked for from a shell, each part loaded only then."""
