"""The HTTP API under /api/v1/, for programs; and the page on which people make the tokens that it takes."""
