"""`python -m sync_svc`."""

from chatmesh.runtime import engine

engine.prepare()

if __name__ == "__main__":
    import sys

    from chatmesh import variables
    from chatmesh.runtime.lifecycle import main
    from sync_svc.app import app
    from sync_svc.settings import SyncSettings

    sys.exit(engine.run(main(SyncSettings, app, known=variables.NAMES)))
