"""Constitutional AI: critique and revision by written principles, and who writes them."""
