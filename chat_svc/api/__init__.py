"""gRPC in and out: check, convert, call, convert. No rule lives here."""
