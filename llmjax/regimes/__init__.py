"""Ways to learn that go around the loop: from what a model writes itself."""
