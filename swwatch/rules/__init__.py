"""What the variants are: positions, layouts, visibility, schedules, and the systems that stream in chat turns."""
