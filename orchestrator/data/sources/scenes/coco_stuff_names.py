"""Names of the values in COCO's stuff-things maps: 91 things and 91 kinds of stuff.

Source: `labels.txt` of github.com/nightrome/cocostuff; a value of a map is one less than the number there.
"""

from __future__ import annotations

__all__ = ["STUFF_THING_NAMES", "UNUSED_THINGS"]

_NAMES = (
    "person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; street "
    "sign; stop sign; parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; "
    "hat; backpack; umbrella; shoe; eye glasses; handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; "
    "kite; baseball bat; baseball glove; skateboard; surfboard; tennis racket; bottle; plate; wine glass; cup; "
    "fork; knife; spoon; bowl; banana; apple; sandwich; orange; broccoli; carrot; hot dog; pizza; donut; cake; "
    "chair; couch; potted plant; bed; mirror; dining table; window; desk; toilet; door; tv; laptop; mouse; "
    "remote; keyboard; cell phone; microwave; oven; toaster; sink; refrigerator; blender; book; clock; vase; "
    "scissors; teddy bear; hair drier; toothbrush; hair brush; banner; blanket; branch; bridge; building-other; "
    "bush; cabinet; cage; cardboard; carpet; ceiling-other; ceiling-tile; cloth; clothes; clouds; counter; "
    "cupboard; curtain; desk-stuff; dirt; door-stuff; fence; floor-marble; floor-other; floor-stone; floor-tile; "
    "floor-wood; flower; fog; food-other; fruit; furniture-other; grass; gravel; ground-other; hill; house; "
    "leaves; light; mat; metal; mirror-stuff; moss; mountain; mud; napkin; net; paper; pavement; pillow; "
    "plant-other; plastic; platform; playingfield; railing; railroad; river; road; rock; roof; rug; salad; sand; "
    "sea; shelf; sky-other; skyscraper; snow; solid-other; stairs; stone; straw; structural-other; table; tent; "
    "textile-other; towel; tree; vegetable; wall-brick; wall-concrete; wall-other; wall-panel; wall-stone; "
    "wall-tile; wall-wood; water-other; waterdrops; window-blind; window-other; wood"
)

STUFF_THING_NAMES: tuple[str, ...] = tuple(_NAMES.split("; "))
"""Name of each value from 0."""

UNUSED_THINGS = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})
"""Values of the eleven things that COCO left without annotations."""
