"""Adapters: few trained weights beside a model whose own weights stay, through peft.

Importing the room registers every kind; peft itself is imported when one is put into a model.
"""

from rlpost.training.adapters import adalora as adalora
from rlpost.training.adapters import lora as lora
from rlpost.training.adapters import lora_plus as lora_plus
from rlpost.training.adapters import none as none
from rlpost.training.adapters import pissa as pissa
from rlpost.training.adapters import prompt_tuning as prompt_tuning
from rlpost.training.adapters import qlora as qlora
from rlpost.training.adapters import vera as vera
from rlpost.training.adapters.registry import adapters as adapters
