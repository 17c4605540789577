"""What a lesson needs and does not teach."""
