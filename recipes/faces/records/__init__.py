"""InsightFace's RecordIO, read and written without MXNet."""

from recipes.faces.records.reading import Record as Record
from recipes.faces.records.reading import RecordFile as RecordFile
from recipes.faces.records.writing import write_records as write_records
