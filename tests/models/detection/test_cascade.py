"""Cascade R-CNN and HTC by hand: thresholds, weights, refinement, flow of masks, semantic branch."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from models.common.options import ModelOptionError
from models.detection import STAGES, create_detector
from models.detection.cascade import Batch, without_annotated
from models.detection.masks import MaskBranch, flow
from models.detection.semantics import SemanticBranch
from tests.models.detection.scenes import SMALL, TINY, scenes


def detector(name: str, **changes: Any) -> Any:
    return create_detector(name, TINY, 3, **{**SMALL, **changes})


def test_stages_are_those_of_the_papers() -> None:
    heads = detector("htc").roi_heads
    assert [(plan.iou, plan.loss_weight) for plan in STAGES] == [(0.5, 1.0), (0.6, 0.5), (0.7, 0.25)]
    annotated = [torch.tensor([[0.0, 0.0, 10.0, 10.0]])]
    boxes = [torch.tensor([[0.0, 0.0, 10.0, height] for height in (4.5, 5.5, 6.5, 7.5)])]
    for stage, positive in zip(heads.stages, (3, 2, 1), strict=True):
        _, labels = stage.assign_targets_to_proposals(boxes, annotated, [torch.tensor([2])])
        assert labels[0].tolist() == [0] * (4 - positive) + [2] * positive


def test_losses_of_a_stage_are_weighted_per_sample() -> None:
    """Two samples, one positive whose offsets are wrong by 0.5 and by 2: 0.125 + 1.5 over 2, times 0.5."""
    stage = detector("cascade_rcnn").roi_heads.stages[1]
    offsets, wanted = torch.tensor([[0.5, 2.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]), torch.zeros(2, 4)
    of_classes, of_boxes = stage.box_losses(torch.zeros(2, 4), offsets, [torch.tensor([3, 0])], [wanted])
    assert float(of_classes) == pytest.approx(0.5 * math.log(4))
    assert float(of_boxes) == pytest.approx(0.5 * 1.625 / 2)


def test_boxes_move_by_the_deviations_of_their_stage() -> None:
    """Move a box, 20 wide and 40 high, right by a tenth of 20, up by a tenth of 40, and double its width."""
    heads = detector("cascade_rcnn").roi_heads
    box = [torch.tensor([[10.0, 10.0, 30.0, 50.0]])]
    refined = heads.stages[0].refine(box, torch.tensor([[1.0, -1.0, math.log(2) / 0.2, 0.0]]), [(60, 60)])
    torch.testing.assert_close(refined[0], torch.tensor([[2.0, 6.0, 42.0, 46.0]]))
    again = heads.stages[1].refine(box, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), [(60, 30)])
    torch.testing.assert_close(again[0], torch.tensor([[11.0, 10.0, 30.0, 50.0]]))  # 31 is beyond the image


def test_detections_are_refined_by_all_stages_and_scored_by_the_mean_of_their_logits() -> None:
    heads = detector("cascade_rcnn", masks=False, score_threshold=0.3).roi_heads.eval()
    biases = torch.tensor([[0.0, 3.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    with torch.no_grad():
        for stage, bias in zip(heads.stages, biases, strict=True):
            for layer in (stage.cls_score, stage.bbox_pred):
                nn.init.zeros_(layer.weight)
            stage.cls_score.bias.copy_(bias)
            stage.bbox_pred.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        features = {str(level): torch.rand(1, 16, 24 // 2**level, 24 // 2**level) for level in range(4)}
        found, losses = heads(features, [torch.tensor([[10.0, 20.0, 30.0, 40.0]])], [(96, 96)], None)
    moved = 20 * (0.1 + 0.05 + 0.033)
    torch.testing.assert_close(found[0]["boxes"], torch.tensor([[10.0 + moved, 20.0, 30.0 + moved, 40.0]]))
    assert found[0]["labels"].tolist() == [1] and losses == {}
    torch.testing.assert_close(found[0]["scores"], biases.mean(0).softmax(0)[1:2])


def test_annotated_boxes_do_not_pass_to_the_next_stage() -> None:
    heads = detector("cascade_rcnn").roi_heads
    _, targets = scenes()
    given = [torch.tensor([[7.0, 8.0, 30.0, 40.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])]
    boxes, _, labels, wanted = heads.stages[0].select_training_samples(given, targets)
    assert [len(box) for box in boxes] == [3, 3]
    offsets = torch.zeros(6, 4)
    refined = heads.stages[0].refine(boxes, offsets, [(64, 96), (80, 64)])
    left = without_annotated(refined, wanted, labels)
    for box, expected in zip(left, given, strict=True):
        torch.testing.assert_close(box, expected)


def test_features_of_masks_flow_from_stage_to_stage() -> None:
    branches = [MaskBranch(4, 6, 3, receives=index > 0).double() for index in range(3)]
    x = torch.randn(2, 4, 8, 8, dtype=torch.double)
    features = flow(branches, x)
    first = branches[0].head(x)
    second = branches[1].head(x + torch.relu(branches[1].receive[0](first)))
    third = branches[2].head(x + torch.relu(branches[2].receive[0](second)))
    for one, other in zip(features, (first, second, third), strict=True):
        torch.testing.assert_close(one, other)
    assert branches[2].predictor(features[2]).shape == (2, 3, 16, 16)
    features[2].sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in branches[0].head.parameters())


@pytest.mark.parametrize(("name", "reaches"), [("htc", True), ("cascade_rcnn", False)])
def test_only_htc_has_a_flow_between_its_mask_branches(name: str, reaches: bool) -> None:
    network = detector(name)
    images, targets = scenes()
    network(images, targets)["loss_mask_2"].backward()
    gradients = [parameter.grad for parameter in network.roi_heads.masks[0].head.parameters()]
    assert all((gradient is not None and bool(gradient.any())) is reaches for gradient in gradients)
    assert network.roi_heads.masks[0].predictor[2].weight.grad is None


def test_semantic_loss_is_the_mean_over_cells_with_a_class() -> None:
    """Cells of 8 pixels read their first pixel; padding and 255 count for nothing."""
    branch = SemanticBranch(2, 3, level_reductions=[4, 8])
    class_map = torch.full((16, 16), 255)
    class_map[8:, :8] = 2
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, 2, 1, 0] = 1.0
    loss, cells = branch.loss(logits, [{"class_map": class_map}])
    assert float(loss) == pytest.approx(math.log(2 + math.e) - 1) and int(cells) == 1
    with pytest.raises(ModelOptionError, match="3 classes"):
        branch.loss(logits, [{"class_map": torch.full((16, 16), 7)}])
    with pytest.raises(ModelOptionError, match="semantic_classes=None"):
        branch.loss(logits, [{"labels": torch.ones(1)}])


def test_semantic_branch_fuses_levels_and_joins_boxes_and_masks() -> None:
    heads = detector("htc").roi_heads.eval()
    levels = [torch.rand(1, 16, 24 // 2**level, 24 // 2**level) for level in range(4)] + [torch.rand(1, 16, 2, 2)]
    features = dict(zip(("0", "1", "2", "3", "pool"), levels, strict=True))
    branch = heads.semantic
    fused = sum(
        lateral(nn.functional.interpolate(level, size=(12, 12), mode="bilinear", align_corners=True))
        for lateral, level in zip(branch.laterals, levels, strict=True)
    )
    embedding, logits = branch(levels)
    torch.testing.assert_close(embedding, branch.embed(branch.convs(fused)))
    assert logits.shape == (1, 4, 12, 12)
    boxes, sizes = [torch.tensor([[8.0, 8.0, 64.0, 64.0]])], [(96, 96)]
    batch = Batch(features, sizes, embedding)
    joined = heads.pooled_masks(batch, boxes) - heads.mask_pool(features, boxes, sizes)
    torch.testing.assert_close(joined, branch.pool(embedding, boxes))
    of_boxes = heads.pooled_boxes(batch, boxes) - heads.box_pool(features, boxes, sizes)
    torch.testing.assert_close(of_boxes, joined.unflatten(2, (7, 2)).unflatten(4, (7, 2)).mean((3, 5)))
    constant = branch.pool(torch.full((1, 16, 12, 12), 2.0), boxes)
    torch.testing.assert_close(constant, torch.full((1, 16, 14, 14), 2.0))
