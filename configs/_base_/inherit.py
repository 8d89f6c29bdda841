# The inheriting strategy, laid over any recipe as a further base: the student's neck and head start from the teacher's.
custom_hooks = [dict(type="InheritTeacherHook")]
