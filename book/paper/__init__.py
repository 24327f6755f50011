"""What only the book has: the paper's claims against its own tables, and its tables beside runs of the library."""
