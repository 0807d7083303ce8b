"""Values and rules of the domain; imports nothing of ours."""
