"""The annotated edition of the source: prose and equations beside the code, made from the source itself."""
