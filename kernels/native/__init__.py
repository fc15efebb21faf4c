"""The compiled part: C sources, and the library that the build hook makes of them."""
