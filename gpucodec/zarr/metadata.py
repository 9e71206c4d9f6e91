# SPDX-License-Identifier: Apache-2.0
"""Codecs as zarr's metadata names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing import Self

    from gpucodec.config import Config


class Configured:
    """A codec with a name, and parameters that all have defaults: a configuration of gpucodec."""

    name: ClassVar[str]

    @property
    def config(self) -> Config:
        """The parameters as the codec takes them."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """From metadata: a name alone, or with a configuration."""
        name = data if isinstance(data, str) else data.get("name")
        if name != cls.name:
            message = f"codec is named {name!r}, not {cls.name!r}"
            raise ValueError(message)
        return cls(**({} if isinstance(data, str) else data.get("configuration") or {}))

    def to_dict(self) -> dict[str, Any]:
        """As metadata."""
        configuration = self.config.to_json()
        return {"name": self.name, **({"configuration": configuration} if configuration else {})}
