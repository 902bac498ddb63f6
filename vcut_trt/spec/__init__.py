"""What every stage agrees on: videos, precisions, graphs, the schedule, residency."""
