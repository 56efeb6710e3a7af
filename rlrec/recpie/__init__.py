"""RecPIE between the stages, and the analyses of its paper."""
