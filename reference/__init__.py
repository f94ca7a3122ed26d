"""The book: one chapter per loss. Start with README.md."""
