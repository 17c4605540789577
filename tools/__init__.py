"""What runs, exports and checks the course; none of it is taught."""
