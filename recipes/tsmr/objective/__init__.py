"""What a student is asked for: losses, found by their names, and the map between spaces that they compare in.

The modules are imported for the losses that they define, which are summed in this order.
"""

from recipes.tsmr.objective import embeddings as embeddings
from recipes.tsmr.objective import margins as margins
from recipes.tsmr.objective import pairs as pairs

from recipes.tsmr.objective import adversarial as adversarial  # isort: skip
from recipes.tsmr.objective import logits as logits  # isort: skip
