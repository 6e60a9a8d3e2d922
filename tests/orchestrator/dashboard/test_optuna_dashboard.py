"""Studies as `optuna-dashboard` shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optuna_dashboard import wsgi
from werkzeug.test import Client

from orchestrator.records.ledger import TrialStatus
from orchestrator.records.objectives import Objectives
from orchestrator.search.storage import open_storage
from orchestrator.search.study import close_study, open_study
from tests.support.sweeps.objectives import OBJECTIVES, TWO_OBJECTIVES, add_to_study, trial_record
from tests.support.sweeps.plans import search_plan


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_states_values_names_and_curves_are_shown(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'optuna.db'}")
    single = search_plan({**TWO_OBJECTIVES, "objective": {"metric": "val/top1"}, "constraints": []})
    study = open_study(single, "single", storage)
    objectives = Objectives.of(single.objectives, single.constraints)
    add_to_study(study, trial_record(0, (0.5, 1e6), (0.9, 1e6)), objectives)
    add_to_study(study, trial_record(1, (0.4, 1e6), status=TrialStatus.PRUNED), objectives)
    several = open_study(search_plan(TWO_OBJECTIVES), "several", storage)
    add_to_study(several, trial_record(0, (0.5, 1e6), (0.9, 3e6)), OBJECTIVES)
    for each in (study, several):
        close_study(each)

    client = Client(wsgi(storage))
    names = {
        study["study_name"]: study["study_id"]
        for study in json.loads(client.get("/api/studies").data)["study_summaries"]
    }
    assert set(names) == {"single", "several"}
    one, two = (json.loads(client.get(f"/api/studies/{names[name]}").data) for name in ("single", "several"))
    assert one["objective_names"] == ["val/top1"]
    assert two["objective_names"] == ["val/top1", "params"]
    assert [trial["state"] for trial in one["trials"]] == ["Complete", "Pruned"]
    assert [(point["step"], point["value"]) for point in one["trials"][0]["intermediate_values"]] == [
        (1, 0.5),
        (2, 0.9),
    ]
    assert two["trials"][0]["values"] == [0.9, 3e6]
