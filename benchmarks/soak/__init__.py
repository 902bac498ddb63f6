"""The soak: many clients, hostile ones among them, and a server that is killed again and again."""
