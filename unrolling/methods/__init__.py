"""Unlearning methods, one file each (section 3.3)."""

#: What ``unrolling list`` shows: name -> one line.
METHODS: dict[str, str] = {
    "retrain": "train again without the batch: M', what all others are measured against",
    "nothing": "keep the trained model: the baseline that the paper does not report",
    "single_gradient": "add back the gradients taken at w_0 (section 5.1)",
    "final_gradient": "add back one gradient taken at w_t (as section 8.3 prints it)",
    "second_order": "also remove the batch's terms of Eq. 6, with Hessians at w_0",
    "linear_propagation": "carry the removal to first order along the stored trajectory",
    "certified_removal": "a Newton step on a convex linear model, hidden by noise in its loss (Guo et al.)",
    "newton_removal": "a Newton step from a stored Hessian, and noise on the weights (Sekhari et al.)",
    "deltagrad": "replay the steps with most gradients from the cached ones (Wu et al.)",
    "sisa": "train shards in slices, and retrain one shard from a checkpoint (Bourtoule et al. 2021)",
    "amnesiac": "subtract the logged updates of the forgotten steps (Graves et al. 2021)",
    "amnesiac_released": "add back gradients taken after the forgotten steps, as the released code",
    "linear_filtration": "forget a class by mixing the logits (Baumhauer et al. 2022)",
    "fisher_scrubbing": "add noise where the retained data does not notice it (Golatkar et al. 2020a)",
    "ntk_scrubbing": "retrain the network linearised at w_0, for small sets (Golatkar et al. 2020b)",
    "dp_sgd": "train with differential privacy by Opacus, then change nothing (Abadi et al. 2016)",
}
