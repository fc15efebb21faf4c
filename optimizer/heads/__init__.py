"""Quality heads over tensors (`head`) and over text (`texts`): one per expert, fitted without the others."""
