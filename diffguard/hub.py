"""Detectors in a folder or on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download

from diffguard.checkpoint.card import model_card
from diffguard.errors import UserError, reason_of

CHECKPOINT = "detector.ckpt"


class HubMixin(ModelHubMixin):
    """Saves a detector with a model card, uploads it and loads it; a base of `Detector`.

    `save_pretrained(folder)` writes `detector.ckpt` and `README.md`, and `push_to_hub(repo_id)`
    uploads them. Figures of an evaluation reach the card by
    `model_card_kwargs={"results": "…/results.json"}`.
    """

    # It names the format; everything else is in the checkpoint.
    _hub_mixin_config = {"format": "diffguard-detector"}  # noqa: RUF012 - of the base class

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Load a detector from a folder of `save_pretrained` or from the hub, by its id.

        The rules for files from others apply, as in `load`: the file is read as data, and foreign
        classes must be named in `trusted`.

        Args:
            pretrained_model_name_or_path: Folder, or hub id `owner/name`, which is downloaded
                unless it is cached.
            force_download: Download again what is cached.
            token: Token of the hub; defaults to the one of `hf auth login`.
            cache_dir: Folder of the cache.
            local_files_only: Use the cache only.
            revision: Branch, tag or commit.
            **model_kwargs: Arguments of `load`: `device`, `trusted`, `settings`, `diffusion`.

        Raises:
            UserError: If there is no such folder or repository, or as `load`.
        """
        # The base class would set arguments from the config.json of the folder.
        return cls._from_pretrained(
            model_id=str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            **model_kwargs,
        )

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the folder of `save_pretrained`.

        Args:
            repo_id: Hub id `owner/name`, which is created if it is missing.
            **options: Arguments of `ModelHubMixin.push_to_hub`, such as `private` and `token`.

        Returns:
            The address of the commit.

        Raises:
            UserError: If the detector cannot be saved, or the upload fails.
        """
        try:
            return super().push_to_hub(repo_id, **options)
        except UserError:
            raise
        except Exception as error:
            # As for a download.
            raise UserError(
                f"the hub did not accept {repo_id} ({reason_of(error)}): check the name, the token "
                "(hf auth login) and the connection, or use save_pretrained"
            ) from error

    def generate_model_card(self, results: str | Path | None = None) -> ModelCard:
        """The model card; see `checkpoint.card.model_card`."""
        data = ModelCardData(
            library_name="diffguard-lightning",
            pipeline_tag="image-classification",
            tags=["out-of-distribution-detection", "diffguard"],
        )
        detector: Any = self
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{model_card(detector.parts, results)}")

    def _save_pretrained(self, save_directory: Path) -> None:
        detector: Any = self
        detector.save(save_directory / CHECKPOINT)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Self:
        detector: Any = cls
        if Path(model_id).is_dir():
            return detector.load(Path(model_id) / CHECKPOINT, **model_kwargs)
        try:
            path = hf_hub_download(
                model_id,
                CHECKPOINT,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        except Exception as error:
            # The hub's client raises its own types, and those of its network library.
            raise UserError(
                f"the hub did not give {CHECKPOINT} of {model_id} ({reason_of(error)}): check the "
                "name and the connection, or give a local folder"
            ) from error
        return detector.load(path, **model_kwargs)
