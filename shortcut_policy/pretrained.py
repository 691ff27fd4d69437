"""Loading and saving a policy by one name: a folder, or a model on the Hugging Face hub."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from shortcut_policy.checkpoint import load_model, package_versions, save_model
from shortcut_policy.errors import InputError
from shortcut_policy.fingerprint import weights_hash
from shortcut_policy.hub import CARD, is_remote, parse, upload
from shortcut_policy.model import Model
from shortcut_policy.model_card import model_card, read_results
from shortcut_policy.paths import write_atomic, written_out


class Pretrained(Model):
    """Adds `from_pretrained`, `save_pretrained` and `push_to_hub` to a model."""

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | torch.device = "cpu", trust: str | Sequence[str] | None = ()
    ) -> Self:
        """Load a trained policy, ready to act.

        Weights and settings must fit each other exactly: nothing is left out or filled in.

        Args:
            path: A checkpoint folder; a run folder, whose newest checkpoint is taken; or a model on the hub,
                ``hf://user/name``, perhaps ``hf://user/name@revision``, of which this machine keeps a copy
                that serves without a network.
            device: Where to put it.
            trust: Modules of yours whose classes the checkpoint may name, such as ``["my_module"]``; the
                classes of this library, ``torch.nn`` and gymnasium's environments need none.

        Raises:
            InputError: There is no checkpoint or no such device; its files are damaged, do not fit each
                other or hold no policy; it names code that is not trusted, of which nothing has run then;
                the hub has no such model or cannot be reached.

        Example:
            >>> policy = Policy.from_pretrained("runs/reach", device="cuda")
            >>> policy = Policy.from_pretrained("hf://user/reach@v1")
        """
        model = load_model(path, device, trust)
        if not isinstance(model, cls):
            raise InputError(
                f"{path} holds no policy, but a model of images: sample it with scripts/sample.py"
            )
        return model

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        license: str | None = None,
        results: str | Path | None = None,
        overwrite_card: bool = False,
    ) -> None:
        """Write a checkpoint that others can use: ``policy.safetensors``, ``policy.json``, ``README.md``.

        The last is a model card, made from what the policy knows of itself, the command that trained it
        included, and from what was measured. It says which of it is not known. A card that is there already
        stays: somebody may have written in it.

        Args:
            folder: Made if it is not there.
            license: Of the weights, an identifier such as ``mit``; None leaves the card without one.
            results: Output of ``scripts/rollout.py`` with this policy: a folder, or a ``summary.json``; None
                leaves the card without results.
            overwrite_card: Write a new card all the same.

        Raises:
            InputError: The policy has no specification, or says something of itself that JSON cannot hold;
                or the results cannot be read, or are those of other weights.
        """
        self._write(written_out(folder), str(folder), license, results, overwrite_card)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Upload a policy",
        license: str | None = None,
        results: str | Path | None = None,
        overwrite_card: bool = False,
        token: str | None = None,
    ) -> str:
        """Publish the policy on the Hugging Face hub, as `save_pretrained` writes it.

        Args:
            repo: ``user/name``, or with ``@revision``; it is made if it is not there.
            private: Who may see a model that is made: True for its owner alone; None for what the account is
                set to.
            revision: Branch, made if it is not there; None for the main one.
            message: Of the commit.
            license: Of the weights, an identifier such as ``mit``; None leaves the card without one.
            results: See `save_pretrained`.
            overwrite_card: Replace the card of the model, if it has one.
            token: Of the hub; None for the one of ``hf auth login``.

        Returns:
            The address with which it is loaded again, ``hf://user/name[@revision]``.

        Raises:
            InputError: As for `save_pretrained`; or the hub cannot be reached, or you may not write there.

        Example:
            >>> load_policy("runs/reach").push_to_hub("user/reach", private=True, license="mit")
        """
        found = parse(repo if is_remote(repo) else f"hf://{repo}")
        if revision is not None and found.revision not in (None, revision):
            raise InputError(f"{repo} and revision={revision} name two branches: give one of them")
        repo, revision = found.name, revision or found.revision
        with tempfile.TemporaryDirectory() as folder:
            address = f"hf://{repo}" + (f"@{revision}" if revision else "")
            self._write(Path(folder), address, license, results, overwrite_card=True)
            return upload(Path(folder), repo, private, revision, message, not overwrite_card, token)

    def _write(
        self,
        folder: Path,
        address: str,
        license: str | None,
        results: str | Path | None,
        overwrite_card: bool,
    ) -> None:
        summaries = self._results(results)
        save_model(self, folder)
        if overwrite_card or not (folder / CARD).exists():
            card = model_card(self, address, package_versions(), license, summaries)
            write_atomic(folder / CARD, card)

    def _results(self, path: str | Path | None) -> list[dict[str, Any]]:
        """Summaries of rollouts, which have to be those of these weights."""
        if path is None:
            return []
        found, own = read_results(path), weights_hash(self)
        if strange := [summary for summary in found if summary["settings"].get("weights") != own]:
            raise InputError(
                f"results={path} holds {len(strange)} summaries of other weights than these: give the output "
                "of scripts/rollout.py with this checkpoint"
            )
        return found
