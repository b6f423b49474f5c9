import math

import pytest

from diffguard.errors import UserError
from diffguard.settings.detector import score_names
from diffguard.settings.plain import from_dict
from diffguard.settings.score_names import complete_score_names


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rule": "vote"}, "rule must be mean or cascade, got 'vote'"),
        ({"band": [0.9, 0.5]}, "band must be two rising shares"),
        ({"budget": 0.0}, "budget must be above 0, got 0"),
        ({"budget": math.inf}, "budget must be a finite number"),
    ],
)
def test_values_out_of_range_are_refused(values, said):
    with pytest.raises(UserError, match=f"detector.fusion.{said}"):
        from_dict({"fusion": {"rule": "cascade", **values}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"decision": "diffguard"}, "decision is diffguard, which clear images of a cascade lack"),
        ({"fused": [], "decision": "msp"}, "begins with the fused baselines, and there is none"),
        (
            {"methods": ["diffguard", "minority"], "comparator": ["minority"]},
            r"rule cascade needs fusion_baselines without .* combines minority",
        ),
    ],
)
def test_a_cascade_needs_scores_of_the_baselines(values, said):
    with pytest.raises(UserError, match=said):
        from_dict({"fusion": {"rule": "cascade"}, **values})


def test_a_cascade_has_scores_for_every_image_and_for_those_in_doubt():
    values = {"methods": ["diffguard", "minority"], "baselines": ["msp", "knn"]}
    settings = from_dict({**values, "fusion": {"rule": "cascade"}})
    complete = ["msp", "knn", "fusion", "fusion_baselines"]
    assert complete_score_names(settings) == complete
    others = [f"diffguard/{name}" for name in settings.distances]
    assert score_names(settings) == ["diffguard", *others, "minority", *complete]
    assert complete_score_names(from_dict(values)) == score_names(from_dict(values))


def test_auto_falls_back_to_baselines_alone():
    values = {"methods": ["diffguard", "minority"], "fused": ["minority"], "decision": "auto"}
    with pytest.raises(UserError, match=r"decision auto needs fusion_baselines .* minority"):
        from_dict(values)
    from_dict({**values, "comparator": ["knn"]})
