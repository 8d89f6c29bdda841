# The authors of CrossKD trained this teacher with 4 images on each GPU.
_base_ = ["mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py"]

train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(enable=True, base_batch_size=16)
