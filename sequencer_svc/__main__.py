"""`python -m sequencer_svc`."""

from chatmesh.runtime import engine

engine.prepare()

if __name__ == "__main__":
    import sys

    from chatmesh import variables
    from chatmesh.runtime.lifecycle import main
    from sequencer_svc.app import app
    from sequencer_svc.settings import SequencerSettings

    sys.exit(engine.run(main(SequencerSettings, app, known=variables.NAMES)))
