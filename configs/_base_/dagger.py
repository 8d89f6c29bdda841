# The inheriting strategy: a leaf that adds this base starts its neck and head from the teacher.
custom_hooks = [dict(type="InheritTeacherHook")]
