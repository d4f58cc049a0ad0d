"""`python -m chat_svc`."""

from chatmesh.runtime import engine

engine.prepare()

if __name__ == "__main__":
    import sys

    from chat_svc.app import app
    from chat_svc.settings import ChatSettings
    from chatmesh import variables
    from chatmesh.runtime.lifecycle import main

    sys.exit(engine.run(main(ChatSettings, app, known=variables.NAMES)))
