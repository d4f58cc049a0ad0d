"""`python -m push_svc`."""

from chatmesh.runtime import engine

if __name__ == "__main__":
    engine.prepare()
    from push_svc.app import main

    raise SystemExit(engine.run(main()))
