"""Unlearning methods, one file each (section 3.3)."""

#: What ``unrolling list`` shows: name -> one line.
METHODS: dict[str, str] = {
    "retrain": "train again without the batch: M', what all others are measured against",
    "nothing": "keep the trained model: the baseline that the paper does not report",
    "single_gradient": "add back the gradients taken at w_0 (section 5.1)",
    "final_gradient": "add back one gradient taken at w_t (as section 8.3 prints it)",
    "second_order": "also remove the batch's terms of Eq. 6, with Hessians at w_0",
    "linear_propagation": "carry the removal to first order along the stored trajectory",
}
