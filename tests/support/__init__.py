"""What tests share: games, references written without the core, committed results."""
