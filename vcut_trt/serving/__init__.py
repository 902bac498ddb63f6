"""One GPU behind an HTTP API that loses no job, and many GPUs behind engines that exist (extra `serve`).

    api ──► store (SQLite, files) ──► runner ──► worker: a process of its own, which owns the GPU
     ▲                                   │
     └────────── feed (progress) ◄───────┘

Nothing else imports this package but the commands that start it.
"""
