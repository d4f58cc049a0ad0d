"""One chat node: live sessions, the commit loop, delivery, and what keeps them true."""
