"""What long work needs: progress, whole files, locks, staged folders, host memory given back."""
