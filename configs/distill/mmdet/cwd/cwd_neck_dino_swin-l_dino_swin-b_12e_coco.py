_base_ = ["../cankd/cankd_neck_dino_swin-l_dino_swin-b_12e_coco.py", "../../../_base_/methods/cwd_neck.py"]

# As published: on four levels, and nothing is inherited.
model = _base_.method
model.distiller.distill_losses.update(loss_neck3=model.distiller.distill_losses.loss_neck0)
model.distiller.loss_forward_mappings.update(
    loss_neck3=dict(
        preds_S=dict(recorder="neck", from_student=True, data_idx=3),
        preds_T=dict(recorder="neck", from_student=False, data_idx=3),
    )
)
custom_hooks = []
