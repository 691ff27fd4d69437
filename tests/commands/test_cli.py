"""What Hydra refuses is one sentence and status 2, too."""

import pytest

from shortcut_policy.commands import cli


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("trainer.max_step=60", "Could not override 'trainer.max_step': there is no such setting"),
        ("objective=nope", "Could not find 'objective/nope' Available options in 'objective': "),
        ("trainer.max_steps", "missing EQUAL"),
        # What Hydra itself does not expect.
        ("+trainer=null", "the settings cannot be composed (Config group override must be a string"),
        ("+=${seed}", "the settings cannot be composed"),
    ],
)
def test_what_hydra_refuses_is_one_sentence(given, sentence, give, capsys):
    with pytest.raises(SystemExit) as caught:
        give(cli.train, given)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1
    assert "To append" not in said and "HYDRA_FULL_ERROR" not in said
