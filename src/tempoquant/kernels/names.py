"""What users call the engines that compute quantized layers."""

ENGINES = ("auto", "integer", "simulation")
