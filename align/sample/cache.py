"""Keys and values in buffers with room to spare: a step writes its own columns in place and copies nothing.

Transformers' own cache is joined anew at every step, which on a CPU is near half of the time of decoding. Columns are
moved only when rows or columns leave, or when the room is used up.

Axes: B rows, H heads, C columns (tokens that were read or written), D of a head.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer


class InPlaceLayer(DynamicLayer):
    """One layer. `keys` and `values` are views of what is used of the buffers."""

    def __init__(self, room: int) -> None:
        """`room`: columns to keep free after the first update, the prompts'."""
        super().__init__()
        self.room = room
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def n_bytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self._buffers or ())

    def free(self) -> int:
        """Columns that can be written before anything must be moved."""
        return 0 if self._buffers is None else self._buffers[0].shape[2] - self.get_seq_length()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns, and return all there are. The room is made by `rearrange`, not here."""
        begin, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (_with_room(key_states, self.room), _with_room(value_states, self.room))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, begin:end] = states
        return self._show(end)

    def rearrange(self, index_BHC: torch.Tensor, room: int) -> None:
        """Keep what `index_BHC` names, by its place in the buffers laid out flat, with so much room after it."""
        assert self._buffers is not None
        keys, values = self._buffers
        del self._buffers, self.keys, self.values  # so that no more than one buffer is held twice
        keys = _gathered(keys, index_BHC, room)
        self._buffers = (keys, _gathered(values, index_BHC, room))
        self._show(index_BHC.shape[2])

    def _show(self, used: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._buffers is not None
        keys, values = (buffer[:, :, :used] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


class InPlaceCache(Cache):
    """All layers of a model; what `past_key_values` wants."""

    layers: list[InPlaceLayer]

    def __init__(self, n_layers: int, room: int) -> None:
        super().__init__(layers=[InPlaceLayer(room) for _ in range(n_layers)])

    @property
    def n_bytes(self) -> int:
        return sum(layer.n_bytes for layer in self.layers)

    def free(self) -> int:
        return self.layers[0].free()

    def rearrange(self, rows_B: torch.Tensor, columns_BC: torch.Tensor, room: int) -> None:
        """The new row b is the old row `rows_B[b]`, of which it has the columns `columns_BC[b]`, in that order."""
        heads = capacity = 0
        for layer in self.layers:
            assert layer._buffers is not None
            if (heads, capacity) != layer._buffers[0].shape[1:3]:
                heads, capacity = layer._buffers[0].shape[1:3]
                head_BH = rows_B[:, None] * heads + torch.arange(heads, device=rows_B.device)
                index_BHC = head_BH[:, :, None] * capacity + columns_BC[:, None]
            layer.rearrange(index_BHC, room)


def _with_room(states_BHCD: torch.Tensor, room: int) -> torch.Tensor:
    b, h, c, d = states_BHCD.shape
    return states_BHCD.new_empty(b, h, c + room, d)


def _gathered(buffer: torch.Tensor, index_BHC: torch.Tensor, room: int) -> torch.Tensor:
    b, h, c = index_BHC.shape
    d = buffer.shape[3]
    made = buffer.new_empty(b, h, c + room, d)
    made[:, :, :c] = buffer.view(-1, d)[index_BHC]
    return made
