"""HTTP: routes, what may come in, what a client sees of a job."""
