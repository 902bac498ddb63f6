"""The same application over GPU replicas of Ray Serve."""
