"""`--report-only` is a word of the recipes that have goals, and of no others."""

import importlib

import pytest


@pytest.mark.parametrize("name", ["step_curve", "guidance_table", "student_evidence"])
def test_a_recipe_without_goals_refuses_a_word_that_it_would_not_read(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = importlib.import_module(f"diffusers_jova.recipes.{name}")
    student = ["--student", "nothing"] if name == "student_evidence" else []
    with pytest.raises(SystemExit) as ended:
        recipe.main(["--report-only", *student])
    assert ended.value.code == 2
    assert "--report-only" in capsys.readouterr().err.splitlines()[-1]
