"""A stranger's torch checkpoint, read without running anything in it.

A `.pt` file is a pickle, and a pickle is a program: it may import any name and call it with arguments of its
own. Keeping to a list of well-known classes is not enough. The file decides how they are called, and
constructors of well-known classes evaluate strings, download and open files. So the reading is done in steps:

1. `files`: the bytes are read once, `archive` checks the zip around them, and the names are listed without
   unpickling.
2. `acts` follows the pickle and refuses what `torch.save` never writes, such as calls that only take memory.
3. `records`: torch's restricted unpickler (`weights_only=True`) runs the file, but every class the file names
   is replaced by a record that only remembers what was said about it. No vendor's class is in its reach.
4. `rebuilding`: the records are made into objects, value by value, from a list of what is plain data. Objects
   are made empty and given their attributes. No constructor is called, the only callables let through are
   modules of known classes, and nothing callable may stand in front of a method.

The floor under it is torch's own unpickler: torch 2.6 closed the last known way to run code in it, 2.10 the
last known way to corrupt memory.
"""

from detcam.checkpoints.files import CheckpointFile, open_checkpoint
from detcam.checkpoints.into_network import load_weights
from detcam.checkpoints.model_file import ModelFile, find_model, find_state_dict, open_model_file
from detcam.checkpoints.reading import Checkpoint, imported_module_class, read_checkpoint
from detcam.checkpoints.rebuilding import Ignored

__all__ = [
    "Checkpoint",
    "CheckpointFile",
    "Ignored",
    "ModelFile",
    "find_model",
    "find_state_dict",
    "imported_module_class",
    "load_weights",
    "open_checkpoint",
    "open_model_file",
    "read_checkpoint",
]
