"""Networks, for inference only. Their weights are files of the user's."""
